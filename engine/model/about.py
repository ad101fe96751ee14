"""What torch says of itself, as plain facts for those who run without it."""

import torch

from afterwatt.engine.runtime.doctor import Gpu, TorchFacts


def torch_facts() -> TorchFacts:
    """Return its version, what its binaries are for, and the GPUs that it sees."""
    gpus = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        uuid = str(about.uuid) if hasattr(about, "uuid") else None
        gpus.append(Gpu(about.name, (about.major, about.minor), uuid))
    return TorchFacts(
        version=str(torch.__version__),
        cuda=torch.version.cuda,
        arch_list=tuple(torch.cuda.get_arch_list()),
        gpus=tuple(gpus),
        threads=torch.get_num_threads(),
    )
