"""The page for users of nnU-Net lacks no command, flag, variable, file or class, and what it says to type is taken.

The lists are written down from nnU-Net 2.8.1 (its entry points, parsers and classes) and 1.7.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from segflow.apps import _catalogue, _command_line, _composition, _nnunet_names
from segflow.apps._nnunet_commands import COMMANDS, V1_COMMANDS, Note, setting_of_flag
from segflow.apps._nnunet_lines import answer

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PAGE = (ROOT / "docs" / "coming_from_nnunet.md").read_text(encoding="utf-8")

_PLANNING = "-d -fpe --verify_dataset_integrity --clean --verbose --no_pbar"
_PREDICTION = (
    "-i -o -f -step_size --disable_tta --verbose --save_probabilities --continue_prediction -chk -npp -nps "
    "-prev_stage_predictions -device --disable_progress_bar --not_on_device"
)
FLAGS = {
    "nnUNetv2_accumulate_crossval_results": "-c -o -f -p -tr",
    "nnUNetv2_apply_postprocessing": "-i -o -pp_pkl_file -np -plans_json -dataset_json",
    "nnUNetv2_convert_MSD_dataset": "-i -overwrite_id -np",
    "nnUNetv2_convert_old_nnUNet_dataset": "",
    "nnUNetv2_determine_postprocessing": "-i -ref -plans_json -dataset_json -np --remove_postprocessed",
    "nnUNetv2_download_pretrained_model_by_url": "",
    "nnUNetv2_ensemble": "-i -o -np --save_npz",
    "nnUNetv2_evaluate_folder": "-djfile -pfile -o -np --chill",
    "nnUNetv2_evaluate_simple": "-l -il -o -np --chill",
    "nnUNetv2_export_model_to_zip": "-d -o -c -tr -p -f -chk --not_strict --exp_cv_preds",
    "nnUNetv2_extract_fingerprint": f"{_PLANNING} -np",
    "nnUNetv2_find_best_configuration": "-p -c -tr -np -f --disable_ensembling --no_overwrite",
    "nnUNetv2_install_pretrained_model_from_zip": "",
    "nnUNetv2_move_plans_between_datasets": "-s -t -sp -tp",
    "nnUNetv2_plan_and_preprocess": f"{_PLANNING} -npfp --no_pp -pl -gpu_memory_target -preprocessor_name "
    "-overwrite_target_spacing -overwrite_plans_name -c -np",
    "nnUNetv2_plan_experiment": "-d -pl -gpu_memory_target -preprocessor_name -overwrite_target_spacing "
    "-overwrite_plans_name",
    "nnUNetv2_plot_overlay_pngs": "-d -o -np -channel_idx --use_raw -p -c -overlay_intensity",
    "nnUNetv2_predict": f"{_PREDICTION} -d -p -tr -c -num_parts -part_id",
    "nnUNetv2_predict_from_modelfolder": f"{_PREDICTION} -m --c",
    "nnUNetv2_preprocess": "-d -plans_name -c -np --verbose --no_pbar",
    "nnUNetv2_train": "-tr -p -pretrained_weights -num_gpus --npz --c --val --val_best --disable_checkpointing -device",
}
V1_FLAGS = [
    "-t",
    "--task_ids",
    "-pl3d",
    "--planner3d",
    "-pl2d",
    "--planner2d",
    "-no_pp",
    "-tl",
    "-tf",
    "--verify_dataset_integrity",
    "-overwrite_plans",
    "-overwrite_plans_identifier",
    "-val",
    "-c",
    "--continue_training",
    "-p",
    "--use_compressed_data",
    "--deterministic",
    "--npz",
    "--find_lr",
    "--valbest",
    "--fp32",
    "--val_folder",
    "--disable_saving",
    "--disable_postprocessing_on_folds",
    "--disable_validation_inference",
    "--val_disable_overwrite",
    "--disable_next_stage_pred",
    "-pretrained_weights",
    "--local_rank",
    "--dbs",
    "-gpus",
    "-tr",
    "-ctr",
    "-m",
    "-pl",
    "-z",
    "--save_npz",
    "-l",
    "--lowres_segmentations",
    "--part_id",
    "--num_parts",
    "--num_threads_preprocessing",
    "--num_threads_nifti_save",
    "--disable_tta",
    "--overwrite_existing",
    "--mode",
    "--all_in_gpu",
    "--step_size",
    "-chk",
    "--disable_mixed_precision",
    "--disable_ensembling",
    "--disable_postprocessing",
    "--num_processes",
]
VARIABLES = [
    "nnUNet_raw",
    "nnUNet_preprocessed",
    "nnUNet_results",
    "nnUNet_extTrainer",
    "nnUNet_n_proc_DA",
    "nnUNet_def_n_proc",
    "nnUNet_npp",
    "nnUNet_nps",
    "nnUNet_compile",
    "nnUNet_wandb_enabled",
    "nnUNet_wandb_project",
    "nnUNet_wandb_mode",
]
FILES = [
    "dataset.json",
    "dataset_fingerprint.json",
    "nnUNetPlans.json",
    "splits_final.json",
    "gt_segmentations",
    "CASE.b2nd",
    "CASE_seg.b2nd",
    "CASE.pkl",
    "nnUNetTrainer__nnUNetPlans__3d_fullres",
    "fold_0",
    "checkpoint_final.pth",
    "checkpoint_best.pth",
    "checkpoint_latest.pth",
    "plans.json",
    "debug.json",
    "network_architecture.pdf",
    "training_log_",
    "progress.png",
    "validation/CASE.npz",
    "validation/summary.json",
    "predicted_next_stage",
    "crossval_results_folds_0_1_2_3_4",
    "postprocessing.pkl",
    "postprocessing.json",
    "ensembles",
    "inference_information.json",
    "inference_instructions.txt",
    "predict_from_raw_data_args.json",
    "benchmark_result.json",
]
PLANNERS = [
    "ExperimentPlanner",
    "ResEncUNetPlanner",
    "nnUNetPlannerResEncM",
    "nnUNetPlannerResEncL_noResampling",
    "nnUNetPlannerResEncL_torchres",
    "nnUNetPlannerResEncL_torchres_sepz",
    "nnUNetPlanner_torchres",
]
TRAINERS = [
    "nnUNetTrainerAdam",
    "nnUNetTrainerAdam1en3",
    "nnUNetTrainerAdam3en4",
    "nnUNetTrainerAdan",
    "nnUNetTrainerAdan1en1",
    "nnUNetTrainerAdan1en3",
    "nnUNetTrainerAdan3en4",
    "nnUNetTrainerAdanCosAnneal",
    "nnUNetTrainerBN",
    "nnUNetTrainerBenchmark_5epochs",
    "nnUNetTrainerBenchmark_5epochs_noDataLoading",
    "nnUNetTrainerCELoss",
    "nnUNetTrainerCELoss_5epochs",
    "nnUNetTrainerCosAnneal",
    "nnUNetTrainerDA5",
    "nnUNetTrainerDA5Segord0",
    "nnUNetTrainerDA5_10epochs",
    "nnUNetTrainerDA5ord0",
    "nnUNetTrainerDiceCELoss_noSmooth",
    "nnUNetTrainerDiceLoss",
    "nnUNetTrainerDiceTopK10Loss",
    "nnUNetTrainerNoDA",
    "nnUNetTrainerNoDeepSupervision",
    "nnUNetTrainerNoMirroring",
    "nnUNetTrainerTopk10Loss",
    "nnUNetTrainerTopk10LossLS01",
    "nnUNetTrainerVanillaAdam",
    "nnUNetTrainerVanillaAdam1en3",
    "nnUNetTrainerVanillaAdam3en4",
    "nnUNetTrainer_100epochs",
    "nnUNetTrainer_10epochs",
    "nnUNetTrainer_1epoch",
    "nnUNetTrainer_2000epochs",
    "nnUNetTrainer_2000epochs_NoMirroring",
    "nnUNetTrainer_20epochs",
    "nnUNetTrainer_250epochs",
    "nnUNetTrainer_250epochs_NoMirroring",
    "nnUNetTrainer_4000epochs",
    "nnUNetTrainer_4000epochs_NoMirroring",
    "nnUNetTrainer_500epochs",
    "nnUNetTrainer_50epochs",
    "nnUNetTrainer_5epochs",
    "nnUNetTrainer_750epochs",
    "nnUNetTrainer_8000epochs",
    "nnUNetTrainer_8000epochs_NoMirroring",
    "nnUNetTrainer_DASegOrd0",
    "nnUNetTrainer_DASegOrd0_NoMirroring",
    "nnUNetTrainer_noDummy2DDA",
    "nnUNetTrainer_onlyMirror01",
    "nnUNetTrainer_onlyMirror01_1500ep",
    "nnUNetTrainer_onlyMirror01_DA5",
    "nnUNetTrainer_onlyMirror01_DASegOrd0",
    "nnUNetTrainer_probabilisticOversampling",
    "nnUNetTrainer_probabilisticOversampling_010",
    "nnUNetTrainer_probabilisticOversampling_033",
    "nnUNetTrainer_warmup",
    "nnUNet_Primus_S_Trainer",
    "nnUNet_Primus_B_Trainer",
    "nnUNet_Primus_M_Trainer",
    "nnUNet_Primus_L_Trainer",
    "nnUNet_Trainer_BS8",
]
"""All but the newer Primus transformers."""


def rows_of(*headings: str) -> list[list[str]]:
    """Cells of all table rows below headings, or of the whole page."""
    text = PAGE
    for heading in headings:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
    return [
        [cell.strip() for cell in row[1:-1].split(" | ")] for row in re.findall(r"^\|(?!-).*\|$", text, re.MULTILINE)
    ]


def flag_table(command: str) -> dict[str, set[str]]:
    """Flag → what the table says that stands below the command's name."""
    found: dict[str, set[str]] = {}
    for names, table in re.findall(r"^(`nnUNetv2_[^\n]*`):\n\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE):
        if f"`{command}`" not in names:
            continue
        for flags, here in re.findall(r"^\| (`-.*?) \| (.*) \|$", table, flags=re.MULTILINE):
            for flag in re.findall(r"`(-+\w+)`", flags):
                found.setdefault(flag, set()).add(here)
    return found


def composes(line: str) -> bool:
    """Whether a command line is understood, and its settings fit together."""
    program, command, *words = shlex.split(line.replace("0,1,2,3,4", "0,1"))
    assert program == "segflow"
    rewritten = _command_line.rewrite(command, words, [CONF])
    return bool(_composition.checked(command, rewritten, [CONF]))


@pytest.mark.parametrize("command", FLAGS)
def test_every_command_and_flag_of_v2_is_on_the_page_and_known(command: str) -> None:
    assert f"`{command}" in PAGE
    assert set(COMMANDS[command].flags) == set(FLAGS[command].split())
    table = flag_table(command)
    assert set(table) >= set(FLAGS[command].split())
    ours = COMMANDS[command].command
    settings = {entry.key for entry in _catalogue.settings(ours, [CONF])}
    groups = set(_catalogue.choices(ours, [CONF]))
    for flag, to in COMMANDS[command].flags.items():
        if isinstance(to, Note):
            continue
        key = to.partition("=")[0]
        assert any(f"`{key}=" in here for here in table[flag]), flag
        section = _command_line._short_names(ours).get(key.partition(".")[0], key)
        assert key in settings | groups or section in settings, f"{command} {flag}: {ours} has no setting {key}"
    for key in (*COMMANDS[command].places, COMMANDS[command].run):
        assert not key or key in settings | groups


def test_no_command_of_v2_is_invented() -> None:
    assert set(COMMANDS) == set(FLAGS)


LINES = [
    (theirs.strip("`"), ours.strip("`"))
    for theirs, ours, *_ in (row for row in rows_of("Commands and flags") if len(row) == 2)
    if theirs.startswith("`nnUNetv2_") and ours.startswith("`segflow")
]


@pytest.mark.parametrize(("theirs", "ours"), LINES)
def test_the_lines_of_the_page_are_what_the_program_answers(theirs: str, ours: str) -> None:
    name, *arguments = shlex.split(theirs)
    if "move_plans" not in name and "download" not in name:
        assert answer(name, arguments).endswith(f"Type: {ours}")


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(segflow \w+ [^`]*=[^`]*)`", PAGE))))
def test_every_command_line_composes(line: str) -> None:
    assert composes(line)


def test_every_example_stands_in_a_table() -> None:
    assert len(LINES) >= len(FLAGS)


@pytest.mark.parametrize("command", sorted(V1_COMMANDS))
def test_every_command_of_v1_is_on_the_page_and_answered(command: str) -> None:
    assert any(f"`{command}" in row[0] for row in rows_of("nnU-Net v1"))
    assert "docs/coming_from_nnunet.md" in answer(command, [])


def test_every_flag_of_v1_is_on_the_page() -> None:
    named = {flag for row in rows_of("nnU-Net v1") for flag in re.findall(r"`(-+\w+)`", row[0])}
    assert not [flag for flag in V1_FLAGS if flag not in named]


@pytest.mark.parametrize(
    ("heading", "names"), [("Environment variables", VARIABLES), ("Files", FILES), ("Commands and flags", PLANNERS)]
)
def test_every_variable_file_and_planner_is_on_the_page(heading: str, names: list[str]) -> None:
    first = " ".join(row[0] + row[1] for row in rows_of(heading))
    assert not [name for name in names if name not in first]


def test_every_trainer_class_is_on_the_page_or_has_a_rule() -> None:
    rows = {
        row[0].split("`")[1]: row[1].strip("`") for row in rows_of("Trainer classes") if row[0].startswith("`nnUNet")
    }
    assert rows == _nnunet_names.TRAINER_CLASSES
    assert not [name for name in TRAINERS if not _nnunet_names.settings_of_class(name)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("nnUNetv2_train 42 3d_fullres 0 --npz -tr Mine", "-tr Mine: docs/coming_from_nnunet.md lists the settings"),
        ("nnUNetv2_train 42 3d_fullres 0 --foo", "--foo: nnU-Net 2.8 has no such flag. Type: segflow train dataset=42"),
        ("nnUNetv2_train 42 3d_fullres 0 -tr", "Type: segflow train dataset=42 configuration=3d_fullres fold=0"),
        ("nnUNetv2_predict -i a -o b -num_parts 4 -part_id 1 -d 3 -c 2d", "part=1/4 model=outputs/Dataset003_NAME/"),
        (
            "nnUNetv2_predict -i a -o b -step_size 0.3 -chk checkpoint_latest.pth",
            "overlap=0.7 checkpoint=last model=RUN",
        ),
        ("nnUNetv2_plan_and_preprocess -d 1 2", "Type: segflow plan -m dataset=1,2"),
        ("nnUNetv2_export_model_to_zip -o x.zip -d Dataset003_X", "model=outputs/Dataset003_X/nnUNetPlans/3d_fullres/"),
    ],
)
def test_a_command_line_of_nnunet_is_answered(typed: str, expected: str) -> None:
    name, *arguments = shlex.split(typed)
    assert expected in answer(name, arguments)


def test_a_flag_of_nnunet_in_a_command_of_ours_is_answered_for_that_command() -> None:
    assert setting_of_flag("train", "-device") == "trainer.accelerator=cpu"
    assert setting_of_flag("predict", "-device") == "device=cpu"
    assert setting_of_flag("predict", "-d") == "model=RUN_FOLDER"
    assert setting_of_flag("plan", "--no_such") == ""
