"""One GPU is enough for these. `TORCHKUTILS_TEST_DEVICE=cpu` runs, on the CPU, those that do not need CUDA."""

import copy
import os
import threading

import pytest
import torch
from torch import nn

import torchkutils
from torchkutils import multi_gpu_model, normalize, plot_model, summarize, to_categorical

DEVICE = torch.device(os.environ.get("TORCHKUTILS_TEST_DEVICE", "cuda:0"))
CUDA = torch.cuda.is_available() and DEVICE.type == "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not CUDA and DEVICE.type == "cuda", reason="there is no GPU here"),
]
needs_cuda = pytest.mark.skipif(not CUDA, reason="CUDA alone has this")
TWO = [DEVICE, DEVICE]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)).double()


def rows(count=10):
    return torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("home", ["cpu", DEVICE], ids=str)
@pytest.mark.parametrize("cpu_merge", [True, False])
def test_outputs_and_gradients_are_those_of_one_device(home, cpu_merge):
    model = network().eval().to(home)
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model, devices=TWO, cpu_merge=cpu_merge)
    for _ in range(3):
        ours, theirs = parallel(rows().to(home)), single(rows().to(home))
        assert ours.device.type == ("cpu" if cpu_merge else DEVICE.type)
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=0, atol=1e-10)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for mine, other in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-9)
        with torch.no_grad():
            for one in (*model.parameters(), *single.parameters()):
                one.mul_(0.9)


def test_running_statistics_are_those_of_the_whole_batch():
    model = network().to(DEVICE)
    single = copy.deepcopy(model)
    multi_gpu_model(model, devices=TWO)(rows())
    single(rows().to(DEVICE))
    torch.testing.assert_close(model[1].running_var, single[1].running_var, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_the_replicas(dtype):
    model = nn.Linear(16, 8)
    parallel = multi_gpu_model(model, devices=TWO, outputs="local", launch="threads")
    with torch.autocast(DEVICE.type, dtype=dtype):
        assert {output.dtype for output in parallel(rows().float())} == {dtype}


@pytest.mark.parametrize("launch", ["serial", "threads"])
def test_a_stream_of_the_caller(launch):
    model = network().eval().to(DEVICE)
    parallel = multi_gpu_model(model, devices=TWO, cpu_merge=False, launch=launch)
    stream = torch.cuda.Stream(DEVICE) if CUDA else None
    with torch.cuda.stream(stream), torch.no_grad():
        x = rows(4096).to(DEVICE)
        for _ in range(20):
            x = (x * 1.01).clone()
        ours = parallel(x)
        total = ours.sum()
    if stream is not None:
        torch.cuda.current_stream(DEVICE).wait_stream(stream)
    torch.testing.assert_close(total, model(x).sum(), rtol=1e-10, atol=0)


def test_what_comes_to_the_cpu_is_there():
    model = nn.Linear(512, 4096).eval()
    parallel = multi_gpu_model(model, devices=TWO, cpu_merge=True)
    with torch.no_grad():
        for _ in range(10):
            x = torch.randn(256, 512)
            torch.testing.assert_close(parallel(x), model(x), rtol=1e-3, atol=1e-3)


@needs_cuda
def test_a_cuda_graph_works_or_is_refused():
    model = network().eval().to(DEVICE)
    parallel = multi_gpu_model(model, devices=TWO, cpu_merge=False)
    x = rows().to(DEVICE)
    with torch.no_grad():
        parallel(x)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                y = parallel(x)
        except RuntimeError:
            return
        graph.replay()
        torch.testing.assert_close(y, model(x), rtol=0, atol=1e-10)


@needs_cuda
def test_memory_is_freed_with_the_wrapper():
    model = nn.Linear(1024, 1024)
    torch.cuda.synchronize(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    parallel = multi_gpu_model(model, devices=TWO)
    parallel(torch.randn(8, 1024)).sum().backward()
    # Both replicas are on one GPU: they share one copy of the weights.
    assert torch.cuda.memory_allocated(DEVICE) - before < 4 * sum(4 * p.numel() for p in model.parameters())
    del parallel
    torch.cuda.synchronize(DEVICE)
    assert torch.cuda.memory_allocated(DEVICE) <= before + 2**20


def test_replicas_draw_different_reproducible_numbers():
    parallel = multi_gpu_model(nn.Dropout(0.5), devices=TWO)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(parallel(torch.ones(64, 16)))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0][:32], drawn[0][32:])


def test_a_summary_and_a_picture_leave_no_trace(tmp_path):
    model = nn.Sequential(network().float(), nn.Dropout(0.5)).to(DEVICE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.cuda.get_rng_state(DEVICE) if CUDA else torch.get_rng_state()
    summary = summarize(model, input_data=(rows().float().to(DEVICE),), mode="train")
    plot_model(model, str(tmp_path / "model.svg"), input_data=(rows().float().to(DEVICE),), mode="train")
    assert summary.total_params == sum(p.numel() for p in model.parameters())
    after = torch.cuda.get_rng_state(DEVICE) if CUDA else torch.get_rng_state()
    assert torch.equal(state, after)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.device.type == DEVICE.type


def test_a_model_comes_back_on_the_device(tmp_path):
    model = network().to(DEVICE)
    torchkutils.save_model(model, tmp_path / "model.h5")
    again = torchkutils.load_model(tmp_path / "model.h5", device=DEVICE)
    assert {parameter.device.type for parameter in again.parameters()} == {DEVICE.type}
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_numbers_stay_on_the_device():
    x = rows().to(DEVICE)
    assert normalize(x).device.type == DEVICE.type
    torch.testing.assert_close(normalize(x).cpu(), normalize(x.cpu()))
    labels = torch.tensor([0, 2, 1], device=DEVICE)
    assert to_categorical(labels, 3).device.type == DEVICE.type
    assert torch.equal(to_categorical(labels, 3).cpu(), to_categorical(labels.cpu(), 3))


class Rows(torchkutils.Sequence):
    def __len__(self):
        return 4

    def __getitem__(self, place):
        return torch.full((8, 16), float(place))


def test_a_loader_pins_memory():
    batches = list(Rows().loader(pin_memory=CUDA))
    assert all(batch.is_pinned() == CUDA for batch in batches)
    assert [float(batch.to(DEVICE, non_blocking=True).mean()) for batch in batches] == [0.0, 1.0, 2.0, 3.0]


def test_several_threads_may_infer_at_once():
    model = network().eval()
    parallel = multi_gpu_model(model, devices=TWO)
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(10):
                if not torch.allclose(parallel(rows()), model(rows()), rtol=0, atol=1e-10):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_rank(strategy, monkeypatch):
    from torch import distributed

    monkeypatch.setenv("LOCAL_RANK", "0")
    backend = "nccl" if CUDA else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        single = network().to(DEVICE)
        parallel = multi_gpu_model(network(), strategy=strategy, cpu_merge=False)
        output = parallel(rows().to(DEVICE))
        torch.testing.assert_close(output, single(rows().to(DEVICE)), rtol=0, atol=1e-10)
        output.sum().backward()
        assert output.device.type == DEVICE.type
        assert not CUDA or torch.cuda.current_device() == 0
    finally:
        distributed.destroy_process_group()
