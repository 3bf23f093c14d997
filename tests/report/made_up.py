"""Comparisons that no run has made, of any shape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hiso_pl.report.comparison import Aim, Comparison, compare
from hiso_pl.report.run import RunData
