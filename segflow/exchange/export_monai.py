"""Export as a MONAI bundle: a folder that ``python -m monai.bundle run`` predicts with.

MONAI's transforms load the image and save the label map. What lies between differs from MONAI's transforms (cropping,
splines, z-scores, tiles), so the bundle's own inferer does it: ``scripts`` holds the runner of ``format=onnx``, and
needs neither segflow nor more than MONAI itself and nibabel.
"""

from __future__ import annotations

import copy
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.exchange.exported_folder import exported_folder
from segflow.exchange.runner_model import MODEL_FILE, RUNNER_FILE, RunnerModel, script
from segflow.storage.json_files import write_json

INFERER_FILE = "monai_inferer.py"
NETWORK_FILE = "models/model.ts"
MONAI = "1.4.0"
"""The oldest MONAI whose names the bundle uses."""


def export_monai(model: RunnerModel, target: Path) -> Path:
    """Write a model as a MONAI bundle.

    Args:
        model: The model. Its folds become one network, which gives their mean logits.
        target: A folder, or a name that ends in ``.zip``.

    Returns:
        The folder or zip, with ``configs/inference.json``, ``configs/metadata.json``, ``models/model.ts`` (the network
        as TorchScript), ``models/model.json``, ``scripts`` and ``docs/README.md``.

    Raises:
        SegflowError: The network cannot be traced or computes otherwise afterwards, or the target exists or cannot be
            written.
    """
    with exported_folder(target) as folder:
        for name in ("configs", "models", "scripts", "docs"):
            (folder / name).mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # checks of shapes become constants; torch.export is no format of MONAI's
            torch.jit.save(_traced(model), str(folder / NETWORK_FILE))
        content = model.to_json({"+".join(model.networks): Path(NETWORK_FILE).name})
        write_json(folder / "models" / MODEL_FILE, content)
        write_json(folder / "configs" / "metadata.json", _metadata(model))
        write_json(folder / "configs" / "inference.json", _inference())
        (folder / "scripts" / "__init__.py").write_text("", encoding="utf-8")
        for name in (RUNNER_FILE, INFERER_FILE):
            (folder / "scripts" / name).write_text(script(name), encoding="utf-8")
        (folder / "docs" / "README.md").write_text(_readme(model), encoding="utf-8")
    return target


class _Mean(nn.Module):
    """The mean logits of several networks."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """image (B, C, *patch) → logits (B, K, *patch)."""
        total: Tensor = self.networks[0](image)
        for network in list(self.networks)[1:]:
            total = total + network(image)
        return total / len(self.networks)


def _traced(model: RunnerModel) -> Any:
    """The networks as TorchScript, for any batch."""
    network = _Mean(copy.deepcopy(list(model.networks.values()))).eval()
    image = model.example(1)
    try:
        with torch.no_grad():
            traced = torch.jit.trace(network, model.example(2), check_trace=False)
            expected, found = network(image), traced(image)
    except Exception as error:  # torch passes on whatever the network raises
        reason = " ".join(str(error).split())[:300]
        raise SegflowError(f"the network {model.network_name} cannot be traced for MONAI: {reason}") from error
    model.check_same(found.float().numpy(), expected.float().numpy(), "as TorchScript")
    return traced


def _inference() -> dict[str, Any]:
    """The content of ``inference.json``, by the names that MONAI's tools look for."""
    return {
        "imports": ["$import torch", "$import scripts.monai_inferer as monai_inferer"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "model_file": "$@bundle_root + '/models/model.json'",
        "datalist": "$monai_inferer.listed(@dataset_dir, @model_file, @output_dir)",
        "network_def": f"$torch.jit.load(@bundle_root + '/{NETWORK_FILE}', map_location=@device)",
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "reader": "NibabelReader",
                    "ensure_channel_first": True,
                    "image_only": True,
                },
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False},
        "inferer": {"_target_": "scripts.monai_inferer.LabelMapInferer", "model_file": "@model_file"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "separate_folder": False,
                    "resample": False,
                    "output_dtype": "$monai_inferer.label_type(@model_file)",
                }
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _metadata(model: RunnerModel) -> dict[str, Any]:
    """The content of ``metadata.json``, by MONAI's schema."""
    record, plan = model.record, model.record.plan
    names = record.dataset.labels.to_json()
    outputs = record.dataset.labels.num_outputs
    image = {"type": "image", "format": "magnitude", "modality": "", "dtype": "float32", "is_patch_data": True}
    channels = {str(number): name for number, name in enumerate(record.dataset.channels)}
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by segflow {version('segflow')}"},
        "monai_version": _installed("monai", MONAI),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "nibabel": version("nibabel"),
            "pytorch-ignite": _installed("pytorch-ignite", "0.4.11"),
        },
        "supported_apps": {},
        "name": record.dataset.name,
        "task": f"segmentation of {', '.join(name for name in names if name not in ('background', 'ignore'))}",
        "description": f"Configuration {plan.name} of {record.dataset.name}, trained by the recipe of nnU-Net.",
        "authors": "",
        "copyright": "",
        "intended_use": "research",
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "num_channels": model.in_channels,
                    "spatial_shape": list(plan.patch_size),
                    "value_range": [],
                    "channel_def": channels,
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": outputs,
                    "spatial_shape": list(plan.patch_size),
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": _outputs(model),
                }
            },
        },
    }


def _outputs(model: RunnerModel) -> dict[str, str]:
    """Output of the network → its name."""
    labels = model.record.dataset.labels
    keys = labels.foreground_keys if labels.has_regions else labels.all_labels
    return {str(number): labels.name_of(key) for number, key in enumerate(keys)}


def _installed(package: str, otherwise: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def _readme(model: RunnerModel) -> str:
    channels = ", ".join(f"`_{number:04d}` {name}" for number, name in enumerate(model.record.dataset.channels))
    return f"""# {model.record.dataset.name}, {model.record.configuration}

Predict a folder of NIfTI images, in this folder:

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir LABEL_MAPS

Images are named `<case>_0000.nii.gz`; channels: {channels}. The label map of a case has the name of its first channel.

`preprocessing` and `postprocessing` in `configs/inference.json` only load and save. The inferer takes the image as it
was read and returns the label map on its grid: it crops, normalises, resamples and covers the image with tiles as in
the training (`scripts`), by the numbers in `models/model.json`.
"""
