"""What is worth hashing, and how: measured on one's own layers and inputs."""

from hashdl.tuning.advice import Advice, LayerAdvice, advise
from hashdl.tuning.race import TrainingResult, TrainingTrial
from hashdl.tuning.result import Trial, TuneResult
from hashdl.tuning.search import tune
from hashdl.tuning.training import tune_training

__all__ = [
    "Advice",
    "LayerAdvice",
    "TrainingResult",
    "TrainingTrial",
    "Trial",
    "TuneResult",
    "advise",
    "tune",
    "tune_training",
]
