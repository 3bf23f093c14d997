"""What explains a run: gradient, noise and curvature at a point, by backpropagation, and what theory makes of them.

:mod:`.problem` says what is asked, :mod:`.diagnosis` what is answered; a plain loop may ask as well as a run.
"""

from hiso_pl.diagnose.diagnosis import Diagnosis as Diagnosis
from hiso_pl.diagnose.diagnosis import diagnose as diagnose
from hiso_pl.diagnose.direction import direction_of as direction_of
from hiso_pl.diagnose.estimate import HessianEstimate as HessianEstimate
from hiso_pl.diagnose.meanings import MEANINGS as MEANINGS
from hiso_pl.diagnose.problem import Client as Client
from hiso_pl.diagnose.problem import Facts as Facts
from hiso_pl.diagnose.problem import Minibatch as Minibatch
from hiso_pl.diagnose.problem import Outputs as Outputs
from hiso_pl.diagnose.problem import Problem as Problem
