"""Attacks of a simulation, one to a file. The line that imports one here registers it."""

from hiso_pl.federation.attacks.alie import ALIE as ALIE
from hiso_pl.federation.attacks.constant_drift import ConstantDrift as ConstantDrift
from hiso_pl.federation.attacks.gaussian import Gaussian as Gaussian
from hiso_pl.federation.attacks.ipm import IPM as IPM
from hiso_pl.federation.attacks.label_flip import LabelFlip as LabelFlip
from hiso_pl.federation.attacks.replay import Replay as Replay
from hiso_pl.federation.attacks.scaling import Scaling as Scaling
from hiso_pl.federation.attacks.sign_flip import SignFlip as SignFlip
from hiso_pl.zeroth_order.attack import Attack as Attack
