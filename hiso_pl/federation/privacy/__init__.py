"""What makes scalars private. The line that imports a class here registers it."""

from hiso_pl.federation.privacy.account import epsilon as epsilon
from hiso_pl.federation.privacy.client import ClientPrivacy as ClientPrivacy
from hiso_pl.federation.privacy.example import ExamplePrivacy as ExamplePrivacy
from hiso_pl.zeroth_order.privacy import Privacy as Privacy
