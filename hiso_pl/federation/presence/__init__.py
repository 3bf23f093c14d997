"""Who of a cohort answers, and when: clients that are away, drop out or are slow. All of it is simulated.

Whether a client answers in a round is a pure function of (seed, round, client), and the same on every machine: numbers
are drawn from the package's own integers, and logarithms and exponentials taken one at a time by the standard library.
"""

from hiso_pl.federation.presence.availability import Availability as Availability
from hiso_pl.federation.presence.day_and_night import DayAndNight as DayAndNight
from hiso_pl.federation.presence.fraction import Fraction as Fraction
from hiso_pl.federation.presence.speeds import LogNormal as LogNormal
from hiso_pl.federation.presence.speeds import Speeds as Speeds
