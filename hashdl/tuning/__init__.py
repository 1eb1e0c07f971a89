"""What is worth hashing, and how: measured on one's own layers and inputs."""

from hashdl.tuning.advice import Advice, LayerAdvice, advise
from hashdl.tuning.search import Trial, TuneResult, tune

__all__ = ["Advice", "LayerAdvice", "Trial", "TuneResult", "advise", "tune"]
