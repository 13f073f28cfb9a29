"""A sweeper gets the value that it optimises, and Python gets it too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from apps_commands import SHORT, start

SWEEPER = '''
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Best(Sweeper):
    """Tries each rate, and writes down what the jobs return."""

    def __init__(self, rates):
        self.rates = rates

    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        jobs = [[*arguments, f"optimizer.lr={rate}", f"run_name=rate-{rate}"] for rate in self.rates]
        results = self.launcher.launch(jobs, initial_job_idx=0)
        Path("values.txt").write_text("\\n".join(str(result.return_value) for result in results))
'''
PYTHON = """
from segflow.apps import _edge, train
settings = _edge.compose("train", *{arguments!r})
print(train.run(settings))
"""


def test_what_a_training_returns_is_what_a_sweeper_of_ones_own_optimises(job: Path) -> None:
    (job / "hydra_plugins").mkdir()  # where Hydra wants its plugins
    (job / "hydra_plugins" / "best.py").write_text(SWEEPER)
    folder = job / "own_conf" / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text("_target_: hydra_plugins.best.Best\nrates: [0.01, 0.02]\n")
    short = [*SHORT, "trainer.max_epochs=1", "validation=false"]
    result = start(job, "train", "-m", "--config-dir=own_conf", "hydra/sweeper=best", *short)
    assert result.returncode == 0, result.stderr
    values = [float(text) for text in (job / "values.txt").read_text().split()]
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)
    (job / "train_it.py").write_text(PYTHON.format(arguments=[*short, "run_name=python", "optimizer.lr=0.01"]))
    python = [sys.executable, "train_it.py"]
    trained = subprocess.run(python, cwd=job, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    assert float(trained.stdout.splitlines()[-1]) == values[0]
