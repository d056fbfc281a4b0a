"""Data of a run: what a sample is, where its bytes lie, in which order it comes, and each rank's part."""

from __future__ import annotations

from gridnn.train.data.augment import Augment
from gridnn.train.data.dataset import DataOptions, Dataset
from gridnn.train.data.loader import Batch, Loader
from gridnn.train.data.open import open_data
from gridnn.train.data.order import EvaluationOrder, Order

__all__ = ["Augment", "Batch", "DataOptions", "Dataset", "EvaluationOrder", "Loader", "Order", "open_data"]
