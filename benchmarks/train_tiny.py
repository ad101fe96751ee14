"""Train the tiny Llamas that quality is measured on in tests: bytes of the standard library's sources, one CPU core.

    python -m benchmarks.train_tiny main --out tests/data/tiny-llama
    python -m benchmarks.train_tiny draft --out tests/data/tiny-llama-draft
    python -m benchmarks.train_tiny relu --out tests/data/tiny-llama-relu
    python -m benchmarks.train_tiny --sample tests/data/held-out.txt     # write the text that they are measured on
    python -m benchmarks.train_tiny --evaluate tests/data/tiny-llama     # print its eval.json anew

A run is a function of model, steps, seed and text alone on a given CPU and torch: one thread, schedules by step, and no
random state but what the seed and the step give. An interrupted run goes on with --resume, bit for bit. Writes
config.json and model.safetensors in the form of Hugging Face's LlamaForCausalLM, and eval.json.

Matrices between embedding and head are optimised by Muon (kellerjordan.github.io/posts/muon), all else by AdamW.
Products are computed in bf16, parameters and sums are kept in fp32.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from benchmarks.tiny_corpus import Corpus, check_corpus, read_corpus
from benchmarks.tiny_llama import Shape, TinyLlama

WINDOW_TOKENS = 256
BATCH_WINDOWS = 16
WARMUP_STEPS = 50
MUON_LR = 0.05
ADAM_LR = 0.004
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
SAVE_EVERY_STEPS = 100
PRINT_EVERY_STEPS = 20
STORED = torch.float16
STATE = "training-state.pt"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a run depends on, apart from the machine.

    Attributes:
        shape: of the model.
        steps: optimiser steps, each on `BATCH_WINDOWS` windows of `WINDOW_TOKENS` predicted bytes.
        seed: of initial weights and of the order of windows.
        corpus_sha256: of the text.
    """

    shape: Shape
    steps: int
    seed: int
    corpus_sha256: str


MODELS = {
    "main": (Shape(hidden=256, layers=4, heads=8, kv_heads=4, neurons=768), 1200),
    "draft": (Shape(hidden=96, layers=3, heads=3, kv_heads=1, neurons=256), 1200),
    "relu": (Shape(hidden=256, layers=4, heads=8, kv_heads=4, neurons=768, activation="relu"), 1200),
}


class Run:
    """A training run between two steps: model, optimisers, how far it is."""

    def __init__(self, recipe: Recipe, text: bytes) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.model = TinyLlama(recipe.shape)
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY, momentum=0.95), MUON_LR),
            (torch.optim.AdamW(rest, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0), ADAM_LR),
        ]
        self.step = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def advance(self) -> float:
        """Take one step; the loss before it, in nats per byte."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        scale = schedule(self.step, self.recipe.steps)
        for optimizer, rate in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
        windows = self.batch()
        logits = self.model(windows[:, :-1], torch.bfloat16)
        loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer, _ in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.wall_s += time.perf_counter() - wall_s
        self.cpu_s += time.process_time() - cpu_s
        return loss.item()

    def batch(self) -> Tensor:
        """The windows of this step, int64 [windows, tokens + 1]: each epoch cuts the text anew and shuffles."""
        per_epoch = (len(self.text) - WINDOW_TOKENS) // WINDOW_TOKENS // BATCH_WINDOWS
        epoch, place = divmod(self.step, per_epoch)
        order = torch.Generator().manual_seed(self.recipe.seed + 1 + epoch)
        first = int(torch.randint(WINDOW_TOKENS, (), generator=order))
        chosen = torch.randperm(per_epoch * BATCH_WINDOWS, generator=order)[place * BATCH_WINDOWS :][:BATCH_WINDOWS]
        places = (first + chosen * WINDOW_TOKENS)[:, None] + torch.arange(WINDOW_TOKENS + 1)
        return self.text[places.clamp(max=len(self.text) - 1)].long()

    def save(self, path: Path) -> None:
        """Write all that `load` needs; a crash leaves the file before or the file after."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "progress": [self.step, self.wall_s, self.cpu_s],
        }
        fresh = path.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            SystemExit: it is the state of another run.
        """
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(f"{path} is of another run ({state['recipe']}); resume with its options, or remove it")
        self.model.load_state_dict(state["model"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.wall_s, self.cpu_s = state["progress"]


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a linear fall that would reach 0 at `steps`."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, (steps - step) / max(1, steps - WARMUP_STEPS))


def windows_of(pieces: list[tuple[str, bytes]]) -> Tensor:
    """Windows of 256 bytes at stride 256, int64 [windows, 256], from pieces that are multiples of 256 bytes long."""
    text = b"".join(piece for _, piece in pieces)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).view(-1, WINDOW_TOKENS).long()


@torch.inference_mode()
def nats_per_byte(model: TinyLlama, windows: Tensor) -> float:
    """Mean cross-entropy of all bytes but the first of each window, given the window's bytes before them; fp32."""
    total = 0.0
    for start in range(0, len(windows), BATCH_WINDOWS):
        batch = windows[start : start + BATCH_WINDOWS]
        logits = model(batch[:, :-1])
        total += float(functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
    return total / windows[:, 1:].numel()


def stored(model: TinyLlama) -> TinyLlama:
    """The model as a reader of the checkpoint gets it: rounded to the stored precision, computing in fp32."""
    rounded = TinyLlama(model.shape)
    rounded.load_state_dict({name: value.to(STORED).float() for name, value in model.state_dict().items()})
    return rounded


def measure(model: TinyLlama, corpus: Corpus) -> dict[str, object]:
    """Quality of the stored weights on the sample, of the fp32 weights on it, and on all held-out text."""
    sample = windows_of(corpus.sample_pieces())
    rounded = stored(model)
    nats = nats_per_byte(rounded, sample)
    return {
        "held_out": "held-out.txt",
        "held_out_bytes": sample.numel(),
        "window_bytes": WINDOW_TOKENS,
        "stride_bytes": WINDOW_TOKENS,
        "scored_bytes": sample[:, 1:].numel(),
        "nats_per_byte": nats,
        "bits_per_byte": nats / math.log(2),
        "perplexity_per_byte": math.exp(nats),
        "nats_per_byte_before_rounding": nats_per_byte(model, sample),
        "nats_per_byte_all_held_out": nats_per_byte(rounded, windows_of(corpus.held_out_pieces())),
        "all_held_out_bytes": sum(len(piece) for _, piece in corpus.held_out_pieces()),
    }


def provenance(recipe: Recipe, corpus: Corpus) -> dict[str, object]:
    """Where a checkpoint comes from: text, recipe and software."""
    return {
        "corpus_sha256": corpus.sha256,
        "python_version": corpus.python_version,
        "torch_version": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "steps": recipe.steps,
        "trained_bytes": recipe.steps * BATCH_WINDOWS * WINDOW_TOKENS,
    }


def export(run: Run, corpus: Corpus, out: Path) -> None:
    """Write config.json, model.safetensors and eval.json into `out`."""
    model, origin = run.model, provenance(run.recipe, corpus)
    weights = {name: value.to(STORED).contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"} | {k: str(v) for k, v in origin.items()})
    write_json(out / "config.json", run.recipe.shape.config(str(STORED).removeprefix("torch.")))
    parameters = sum(value.numel() for value in weights.values())
    spent = {"wall_s": round(run.wall_s, 1), "cpu_s": round(run.cpu_s, 1)}
    result = {"parameters": parameters} | measure(model, corpus) | origin | spent
    write_json(out / "eval.json", result)
    print(json.dumps(result, indent=2))


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def train(run: Run, state: Path) -> Iterator[tuple[int, float]]:
    """Run to the end, saving on the way; yields (steps done, mean loss since the last) now and then."""
    losses: list[float] = []
    while run.step < run.recipe.steps:
        losses.append(run.advance())
        if run.step % SAVE_EVERY_STEPS == 0:
            run.save(state)
        if run.step % PRINT_EVERY_STEPS == 0 or run.step == run.recipe.steps:
            yield run.step, sum(losses) / len(losses)
            losses.clear()


def evaluate(folder: Path, corpus: Corpus) -> None:
    """Print what `measure` says of a checkpoint on disk."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = TinyLlama(shape_of(config))
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    print(json.dumps(measure(model, corpus), indent=2))


def shape_of(config: dict[str, Any]) -> Shape:
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        neurons=config["intermediate_size"],
        activation=config["hidden_act"],
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, help="folder for the checkpoint, and for the state of the run meanwhile")
    parser.add_argument("--steps", type=int, help="optimiser steps; the schedule is stretched to them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out, if there is one")
    parser.add_argument("--any-corpus", action="store_true", help="train on whatever this Python's library contains")
    parser.add_argument("--sample", type=Path, metavar="FILE", help="write the held-out sample and its sources")
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="measure a checkpoint")
    options = parser.parse_args()
    if options.model and not options.out:
        parser.error("a model needs a folder to go to: --out DIR")
    if not (options.model or options.sample or options.evaluate):
        parser.error(f"name a model ({', '.join(sorted(MODELS))}), or say --sample FILE or --evaluate DIR")
    return options


def main() -> None:
    """Do what the options say."""
    options = parse()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    corpus = read_corpus()
    if not options.any_corpus:
        check_corpus(corpus)
    if options.sample:
        options.sample.write_bytes(b"".join(piece for _, piece in corpus.sample_pieces()))
        print(*sorted({name for name, _ in corpus.sample_pieces()}), sep="\n")
    if options.evaluate:
        evaluate(options.evaluate, corpus)
    if options.model:
        shape, steps = MODELS[options.model]
        options.out.mkdir(parents=True, exist_ok=True)
        run = Run(Recipe(shape, options.steps or steps, options.seed, corpus.sha256), corpus.train_bytes())
        state = options.out / STATE
        if options.resume and state.is_file():
            run.load(state)
        for step, loss in train(run, state):
            rate_per_s = step * BATCH_WINDOWS * WINDOW_TOKENS / run.wall_s
            print(f"step {step}/{run.recipe.steps}  {loss:.4f} nats/byte  {rate_per_s:.0f} bytes/s", flush=True)
        export(run, corpus, options.out)
        state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
