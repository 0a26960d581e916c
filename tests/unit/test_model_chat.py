"""Chat templates of the families: our prompt is what apply_chat_template gives, and a record inside keeps its ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_samples import CHATML, prompt_of, records, save_tokenizer, traffic_tokens

from trafficllm.core.errors import ArtifactError
from trafficllm.model.tokenizer.extend import extend, load_auto
from trafficllm.model.tuning.encode import Encoder
from trafficllm.records.codec.codec import encode
from trafficllm.records.prompts import render

TEMPLATES = {
    "qwen": CHATML,
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}


def _encoder(kind: str, folder: Path, template: str) -> Encoder:
    save_tokenizer(kind, folder / "plain", template=template)
    extend(folder / "plain", traffic_tokens(), folder / "traffic")
    return Encoder(load_auto(folder / "traffic"))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_prompt_is_the_templates_user_message(kind: str, tmp_path: Path) -> None:
    encoder = _encoder(kind, tmp_path, TEMPLATES[kind])
    tokenizer = encoder.tokenizer
    for row in records()[0][:20]:
        ids = encoder.prompt(prompt_of(row))
        messages = [{"role": "user", "content": render(prompt_of(row), encoder.forbidden).strip()}]
        assert ids == tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        alone = encoder.units(encode(row))
        assert sum(ids[k : k + len(alone)] == alone for k in range(len(ids))) == 1
        assert ids.count(tokenizer.bos_token_id) == (0 if kind == "qwen" else 1)


def test_a_template_that_hides_the_message_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="exactly once"):
        _encoder("qwen", tmp_path, "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}")
