"""What makes scalars private. The line that imports a class here registers it."""

from hiso_pl.zeroth_order.privacy import Privacy as Privacy
