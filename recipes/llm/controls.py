"""The controls of decision 0007 beside an extended base: the same shape with random weights, and its layers in random order.

    python recipes/llm/controls.py --base smollm2 --out runs/llm/controls --seed 0
    trafficllm evaluate transfer D D --part val --shots 5 --shots 20 --draws 3 --base runs/llm/controls/random

Neither is trained here: a probe of their frozen states says how much of the extended base's score the architecture and the tokens give
alone. The files beside the weights (tokenizer, manifest, list of records read) are the base's own, so records become the same tokens.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trafficllm.core.files import atomic_dir
from trafficllm.model.base.extend import write_manifest
from trafficllm.model.base.folder import weight_files
from trafficllm.model.base.load import load_base, resolve

Weights = dict[str, torch.Tensor]


def random_weights(folder: Path, seed: int) -> Weights:
    """What the architecture's own initialisation gives, under the names of the stored tensors; the padding token's row is drawn as well,
    as a row of zeros before a norm makes gradients grow a hundredfold a layer, and SmolLM2 pads with the token that ends a text."""
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.nn.init.normal_(model.get_input_embeddings().weight.data, std=config.initializer_range)
    return {name: value.detach().to(torch.bfloat16) for name, value in model.state_dict().items()}


def shuffled_layers(folder: Path, seed: int) -> Weights:
    """The base's weights with whole layers exchanged; embeddings and the last norm stay."""
    weights = load_base(folder, dtype="stored").model.state_dict()
    count = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()

    def source(name: str) -> str:
        parts = name.split(".")
        return ".".join([*parts[:2], str(order[int(parts[2])]), *parts[3:]]) if name.startswith("model.layers.") else name

    return {name: weights[source(name)].detach().clone() for name in weights}


def write(folder: Path, weights: Weights, out: Path, *, name: str) -> None:
    """A copy of the base's folder with other weights and its own hash."""
    stored = set(weight_files(folder))
    with atomic_dir(out) as place:
        for path in folder.iterdir():
            if path.is_file() and path.name not in stored and not path.name.endswith(".index.json"):
                shutil.copyfile(path, place / path.name)
        tied = {key: value.contiguous() for key, value in weights.items() if key != "lm_head.weight"}
        save_file(tied, place / "model.safetensors", metadata={"format": "pt"})
        write_manifest(place, name=name, training=None, warnings=[f"a control: {name}"])


def main() -> None:
    """Both controls of a base with tied embeddings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = resolve(options.base)
    if not AutoConfig.from_pretrained(folder).tie_word_embeddings:
        raise SystemExit("its head is not its embedding table: these controls are for tied ones")
    for name, make in (("random", random_weights), ("shuffled", shuffled_layers)):
        write(folder, make(folder, options.seed), options.out / name, name=name)
        print(options.out / name)


if __name__ == "__main__":
    main()
