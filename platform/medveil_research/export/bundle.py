"""The model as a MONAI Bundle: ``python -m monai.bundle run`` predicts with it, offline, with MONAI alone.

* ``models/model.pt2`` is the whole network as a program of torch (:mod:`medveil_research.programs`). MONAI's
  own class of a network would not do: batch norm has become group norm here, and MedVeil's networks MONAI
  does not know. So the bundle needs torch and MONAI, and MedVeil nowhere.
* ``models/model.safetensors`` holds the network's weights by name, for ``medveil study new --start-weights``.
* ``configs/inference.json`` brings an image into the tensor as the study does: transforms of MONAI, and the
  profile's own function of the grey scale as the code that it is.
* ``configs/metadata.json`` follows MONAI's schema (:mod:`medveil_research.bundle_metadata`).

Source: MONAI Bundle specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from medveil.profiles import PROFILES
from medveil.study import Study, Target
from medveil.tasks import TASKS
from medveil_imaging.patches import OVERLAP, WINDOWS_AT_ONCE
from medveil_research.bundle_metadata import metadata_of
from medveil_research.export import EXPORTS
from medveil_research.finished import Finished
from medveil_research.preprocessing import Unwritable, code_of_profile, monai_transforms, steps_of
from medveil_research.programs import NotExportable, check_same, hushed, network_of, program_of

FORM = "bundle"
PROGRAM = "models/model.pt2"
LOADED = (
    "$(lambda net: [setattr(net, name, lambda *_: net) for name in ('train', 'eval')] and net)"
    f"(torch.export.load(@bundle_root + '/{PROGRAM}').module())"
)
"""A program knows no training mode, and MONAI's evaluator asks for one: both leave it as it is."""


@EXPORTS.register(FORM)
def bundle(finished: Finished, folder: Path) -> list[Path]:
    """``configs``, ``models`` and ``docs`` below the folder.

    Raises:
        NotExportable: the network computes with more than torch, or its profile's way is none of MONAI's.
    """
    study = finished.study
    network = network_of(study, finished.weights)
    try:
        config = inference_of(study)
    except Unwritable as error:
        raise NotExportable(name=study.model.name, form=FORM, problem=str(error)) from error
    program = program_of(study, network, form=FORM)
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / PROGRAM
    with hushed():
        torch.export.save(program, path)
        again = torch.export.load(path).module()
    check_same(study, network, again, form=FORM)
    weights = folder / "models" / "model.safetensors"
    tensors = {name: np.ascontiguousarray(value.numpy()) for name, value in network.named_parameters()}
    weights.write_bytes(safetensors.numpy.save(tensors))
    texts = {
        "configs/inference.json": json.dumps(config, indent=2) + "\n",
        "configs/metadata.json": json.dumps(metadata_of(finished), indent=2) + "\n",
        "docs/README.md": readme_of(finished),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [path, weights, *(folder / name for name in texts)]


def inference_of(study: Study) -> dict[str, Any]:
    """MONAI's configuration of a whole prediction. Raises: Unwritable."""
    shape = study.transforms
    size = {"size": list(shape.size), "spacing_mm": list(shape.spacing_mm)}
    size |= {"channel_count": shape.channel_count, "patches": shape.patches}
    transforms = monai_transforms(study)
    after, ending = _afterwards(study)
    parts: dict[str, Any] = {
        "imports": ["$import glob", "$import os", "$import types", "$import numpy"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/predictions'",
        "device": "$torch.device('cpu')",
        "images": "$sorted(glob.glob(os.path.join(@dataset_dir, '*')))",
        "shape": f"$types.SimpleNamespace(**{size!r})",
        "profile_code": code_of_profile(shape.profile),
        "profile": "$(lambda space: exec('\\n'.join(@profile_code), space) or space)({})",
        "network_def": LOADED,
        "network": "@network_def",
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @images]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _inferer(study),
        **after,
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "initialize": ["$os.makedirs(@output_dir, exist_ok=True)"],
        "run": ["$@evaluator.run()", *ending],
    }
    return parts


def _inferer(study: Study) -> dict[str, Any]:
    if not study.transforms.patches:
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(study.transforms.size),
        "sw_batch_size": WINDOWS_AT_ONCE,
        "overlap": OVERLAP,
        "mode": "gaussian",
    }


def _afterwards(study: Study) -> tuple[dict[str, Any], list[str]]:
    """What becomes of the logits, and what is run when all are there."""
    if TASKS[study.task].outlines:
        return {"postprocessing": {"_target_": "Compose", "transforms": _outlined(study)}}, []
    saver = {"_target_": "CSVSaver", "output_dir": "@output_dir", "filename": "predictions.csv"}
    after = {"saver": saver | {"overwrite": True}}
    steps = [
        {"_target_": "Lambdad", "keys": "pred", "func": _read_as(study)},
        {"_target_": "Lambdad", "keys": "pred", "func": "$lambda found: found.as_tensor()"},
        {
            "_target_": "SaveClassificationd",
            "keys": "pred",
            "saver": "@saver",
            "meta_keys": "name",
        },
    ]
    named = {
        "_target_": "Lambda",
        "func": "$lambda case: {**case, 'name': {'filename_or_obj': case['image'].meta['filename_or_obj']}}",
    }
    post = {"_target_": "Compose", "transforms": [named, *steps]}
    return after | {"postprocessing": post}, ["$@saver.finalize()"]


def _read_as(study: Study) -> str:
    """From logits (outputs,) to probabilities, or to the number that is learned."""
    if study.target is not None:
        return f"$lambda found: {number_of(study.target)}"
    if study.task == "findings" or TASKS[study.task].outputs(study.classes) == 1:
        return "$lambda found: found.sigmoid()"
    return "$lambda found: found.softmax(0)"


def number_of(target: Target) -> str:
    """The number that an output ``found`` stands for, cut to its range, as an expression."""
    return f"{target.low!r} + {target.high - target.low!r} * ((found + 1) / 2).clamp(0, 1)"


def _outlined(study: Study) -> list[dict[str, Any]]:
    profile = PROFILES[study.transforms.profile]
    steps: list[dict[str, Any]] = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    if profile.reads_volumes:
        if profile.compose is not None:
            raise Unwritable("what the profile's own compose() does cannot be taken back by MONAI")
        steps.append(
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": True,
                "to_tensor": True,
            }
        )
    save: dict[str, Any] = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "outline",
        "separate_folder": False,
        "resample": False,
        "output_dtype": "$numpy.uint8",
    }
    if not profile.reads_volumes:
        save |= {"output_ext": ".png", "writer": "PILWriter", "scale": None}
    return [*steps, save]


def readme_of(finished: Finished) -> str:
    """What a person should know before using it."""
    study = finished.study
    steps = "\n".join(f"{number}. {text}" for number, text in enumerate(steps_of(study), start=1))
    figures = "\n".join(f"* {name}: {value:.4g}" for name, value in finished.figures.items())
    flat = TASKS[study.task].outlines and not PROFILES[study.transforms.profile].reads_volumes
    note = "Outlines are written at the network's size, not at the film's.\n\n" if flat else ""
    return (
        f"# {study.name}\n\nTrained by federated learning with MedVeil to {TASKS[study.task].aim(study)}. "
        "For research only: no medical device, not for diagnosis.\n\n"
        "```\npython -m monai.bundle run --config_file configs/inference.json --bundle_root . "
        "--dataset_dir IMAGES --output_dir PREDICTIONS\n```\n\n"
        f"It needs torch and MONAI, nothing of MedVeil. {note}`models/model.safetensors` holds the weights "
        "by name, to start another study from (`medveil study new --start-weights`).\n\n"
        f"## From a file to the tensor\n\n{steps}\n\n"
        "MONAI's readers open the files; where a header is out of order, MedVeil's may see more in it.\n\n"
        f"## Figures on the test patients of all hospitals\n\n{figures or 'It was not evaluated.'}\n\n"
        "`manifest.json`, where it is there, says who made this, at what privacy, and each file's hash.\n"
    )
