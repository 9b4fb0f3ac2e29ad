"""Settings that every test shares: no hub, one thread, the same examples in every run."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from hypothesis import settings

CACHE = tempfile.TemporaryDirectory(prefix="omnipref-tests-")
os.environ["OMNIPREF_CACHE"] = CACHE.name  # removed at exit; a user's own caches stay as they are

# Processors of video models need torchvision, whose CPU build lacks its compiled operators; `make test` puts it aside,
# so that only tests see it, and declaring the two operators lets it import.
ASIDE = Path(sys.prefix) / "test-only"
if ASIDE.is_dir():
    import torch

    sys.path.append(str(ASIDE))
    TORCHVISION = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        TORCHVISION.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

settings.register_profile("omnipref", deadline=None, derandomize=True)
settings.load_profile("omnipref")
