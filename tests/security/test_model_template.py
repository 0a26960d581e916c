"""Chat templates of a stranger: what would run for ever or fill the memory is refused, the rest says what transformers says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from model_samples import save_tokenizer

from trafficllm.core.errors import ArtifactError
from trafficllm.model.tokenizer.extend import load_auto
from trafficllm.model.tokenizer.template import chat_text
from trafficllm.model.tuning.encode import Encoder


@pytest.fixture(scope="module", name="tokenizer")
def _tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("chat")
    save_tokenizer("qwen", place, chat=True)
    return load_auto(place)


HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "memory": "{{ 'x' * 10 ** 10 }}",
    "power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "long": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "format": "{{ '%9999999999d' % 1 }}",
    "join": "{{ (['x' * 1000000] * 100000) | join }}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "file": "{% include '/etc/passwd' %}",
    "refusal": "{{ raise_exception('no') }}",
    "syntax": "{% for %}",
    "division": "{{ 1 / 0 }}",
    "size": "x" * (1 << 20) + "x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_templates_that_do_more_than_render_are_refused(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = HOSTILE[name]
    with pytest.raises(ArtifactError) as caught:
        Encoder(tokenizer)
    assert caught.value.code == "artifact.chat_template"


TEMPLATES = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}|{% endif %}",
    "{%- for m in messages -%}\n  {%- if loop.index0 > 5 %}{% break %}{% endif %}\n[{{ m.content | trim }}]\n{% endfor %}",
    "{{ messages | tojson }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m.content }}{% endfor %}{{ date_string }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ 'tools' if tools else 'none' }}",
    "{{ messages[0]['content'] }}{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{{ eos_token }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_say_what_transformers_says(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello <b>"}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="01 Jan 2025",
    )
    assert chat_text(tokenizer, "hello <b>") == expected


def test_todays_date_does_not_change_ids(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
    assert chat_text(tokenizer, "x") == "2025-01-01 x"
