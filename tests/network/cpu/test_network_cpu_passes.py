"""Passes side by side: order, threads, failures, and the end of what nobody waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from segflow.core.topology import NetworkTopology
from segflow.inference.predict_settings import SlidingWindowSettings
from segflow.inference.sliding_window import predict_logits
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate
from segflow.network.cpu.passes import in_order, keeps_nothing, passes_that_fit, shared


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def network(outputs: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    topology = NetworkTopology("plain_unet", (4, 8), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), (1, 1), (1,))
    return accelerate(build_network(topology, 1, outputs)).eval()


def in_a_new_thread(call: Callable[[], int]) -> int:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("count", [2, 3])
def test_labels_do_not_depend_on_the_number_of_threads(count: int) -> None:
    networks = [network(seed=seed) for seed in range(2)]
    image = torch.randn((1, 12, 20, 20), generator=torch.Generator().manual_seed(0))

    def predict() -> torch.Tensor:
        return predict_logits(networks, image, (8, 16, 16), (0, 1, 2), SlidingWindowSettings())

    with threads(1):
        alone = predict()
    with threads(count):
        first, second = predict(), predict()
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(first.argmax(0), alone.argmax(0))


def test_results_come_in_the_order_of_the_calls() -> None:
    def call(index: int) -> Callable[[], int]:
        def compute() -> int:
            time.sleep(0.01 * (index % 3))
            return index

        return compute

    with threads(3):
        assert list(in_order([call(index) for index in range(20)], 3)) == list(range(20))


def test_calls_share_the_threads_and_leave_those_of_others_as_they_are() -> None:
    with threads(6):
        assert list(in_order([torch.get_num_threads] * 5, 4)) == [2] * 5
        assert list(in_order([torch.get_num_threads] * 5, 5)) == [1] * 5
        for _ in in_order([torch.get_num_threads] * 5, 4):
            assert torch.get_num_threads() == 1
            assert in_a_new_thread(torch.get_num_threads) == 6
        assert torch.get_num_threads() == 6
        assert in_a_new_thread(torch.get_num_threads) == 6


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(2, 7, (2, 1)), (16, 9, (8, 2)), (7, 2, (2, 3)), (4, 1, (1, 4)), (1, 5, (1, 1))]
)
def test_most_threads_are_in_use(count: int, most: int, expected: tuple[int, int]) -> None:
    assert shared(count, most) == expected


def test_one_at_a_time_computes_in_the_callers_thread() -> None:
    with threads(3):
        found = list(in_order([threading.get_ident] * 4, 1))
        assert found == [threading.get_ident()] * 4


def test_modes_hold_in_every_thread() -> None:
    with threads(2):
        assert list(in_order([torch.is_inference_mode_enabled] * 4, 2, torch.inference_mode)) == [True] * 4


def test_an_error_reaches_the_caller_whole_and_ends_the_others() -> None:
    def fail() -> int:
        raise ValueError("no such layer")

    def slow() -> int:
        for _ in range(3000):
            time.sleep(0.01)
        return 0

    with threads(3), pytest.raises(ValueError, match="no such layer") as caught:
        list(in_order([slow, fail, slow], 3))
    assert caught.traceback[-1].name == "fail"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pass-")]


def test_results_that_nobody_takes_end_the_threads() -> None:
    with threads(2):
        results = in_order([lambda: 1] * 50, 2)
        assert next(results) == 1
        results.close()
        assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pass-")]


def test_few_results_wait_for_a_slow_one() -> None:
    made: list[int] = []
    gate = threading.Event()

    def call(index: int) -> Callable[[], int]:
        def compute() -> int:
            made.append(index)
            if index == 0:
                gate.wait(20)
            return index

        return compute

    with threads(2):
        threading.Timer(0.3, gate.set).start()
        assert list(in_order([call(index) for index in range(40)], 2)) == list(range(40))
    assert max(made[: made.index(0) + 4]) < 5


def test_networks_that_may_keep_something_run_one_at_a_time() -> None:
    own, hooked, batch = network(), network(), network()
    shape = (1, 1, 8, 16, 16)
    assert passes_that_fit([batch], shape) > 100
    own.encoder = type("Own", (type(own.encoder),), {})(own.topology, 1)
    hooked.heads[0].register_forward_hook(lambda *_: None)
    for one in (own, hooked, nn.Conv3d(1, 3, 3, padding=1)):
        assert passes_that_fit([batch, one], shape) == 1
    assert not keeps_nothing(own)


def test_large_patches_run_one_at_a_time() -> None:
    assert passes_that_fit([network(outputs=2)], (1, 1, 4096, 4096, 4096)) == 1


PROGRAM = """
import os
import torch
from segflow.network.cpu.passes import in_order

def very_long():
    x = torch.zeros(1000)
    os.write(1, b"begun\\n")
    for _ in range(10**9):
        x.add_(1)

torch.set_num_threads(2)
list(in_order([very_long] * 4, 2))
"""


def test_ctrl_c_ends_promptly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)  # the calls alone would take longer
    finally:
        process.kill()
        process.wait()
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
