"""One tuning run from rows to adapter files; `tune` decides whether it is needed at all."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trafficllm.core.errors import ResourceError, UsageError
from trafficllm.core.files import atomic_dir, hash64
from trafficllm.core.machine import Pace
from trafficllm.core.metrics import macro_f1_of_indices
from trafficllm.core.settings import TuneOptions
from trafficllm.core.types import NONE, Prompt, Silent
from trafficllm.model.adapter import lora, readout
from trafficllm.model.adapter.fused import fused
from trafficllm.model.base.load import Base
from trafficllm.model.results import ReadoutFit, TuneReport
from trafficllm.model.threads import paced
from trafficllm.model.tuning import processes
from trafficllm.model.tuning.callbacks import Clock, History, MetricsFile, Watch, cosine
from trafficllm.model.tuning.collate import Sample, StepData, common
from trafficllm.model.tuning.encode import Encoder
from trafficllm.model.tuning.eval_step import loss_and_first, predict
from trafficllm.model.tuning.options import CHECKPOINTS, METRICS, Job, TuneData, class_weights, peak_bytes
from trafficllm.model.tuning.trainer import HEAD, AnswerTrainer, checkpoints, ordered_callbacks
from trafficllm.model.tuning.trie import LabelTrie

HEAD_ROWS = 300
"""Training rows whose features set the scale of what a readout's head sees."""
READ_TOKENS = 600_000
"""Tokens at most that a readout is fitted on: about a minute of one core for the embedded base."""
COPIES = 3
"""Changed copies of each training row that a readout is fitted on, where there are few rows."""


class Rows:
    """Training rows as samples, made anew each epoch where the data asks for augmentation."""

    def __init__(self, data: TuneData, encoder: Encoder, options: TuneOptions) -> None:
        self.data, self.encoder, self.seed = data, encoder, options.seed
        self.trie = _trie(data.labels, encoder)
        self.weights = data.weights or (class_weights(data.answers, options.balance) if data.labels else {})
        self.fixed = encoder.prompts(self._prompts()) if len(data.answers) else []
        self.places = {label: k for k, label in enumerate(data.labels)}
        self.first = common(self.fixed) if self.fixed else 0

    def _prompts(self) -> Sequence[Prompt]:
        if self.data.prompt_of is None:
            return self.data.prompts
        return [self.data.prompt_of(record) for record in self.data.records]

    def answer(self, answer: str, prompt: Sequence[int]) -> Sample:
        """The sample of one answer after prompt ids."""
        if self.trie is None:
            return Sample(prompt, [*self.encoder.units(answer), self.encoder.eos])
        place = self.places[answer]
        path = list(self.trie.paths[place])
        ids = path if path[-1] == self.encoder.eos else [*path, self.encoder.eos]
        return Sample(prompt, ids, self.trie.choices(place), self.weights.get(answer, 1.0), place, self.first)

    def __call__(self, row: int, epoch: int) -> Sample:
        """Row of an epoch; the augmentation's randomness is a function of (seed, epoch, row)."""
        prompt: Sequence[int] = self.fixed[row]
        if self.data.augment is not None and self.data.prompt_of is not None:
            chooser = random.Random(hash64(f"{self.seed} {epoch} {row}".encode()))
            record = self.data.augment(self.data.records[row], chooser)
            prompt = self.encoder.prompt(self.data.prompt_of(record))
        return self.answer(self.data.answers[row], prompt)


def _trie(labels: Sequence[str], encoder: Encoder) -> LabelTrie | None:
    return LabelTrie.of(labels, [encoder.label(label) for label in labels], encoder.eos) if labels else None


def even_share(answers: Sequence[str], limit: int, seed: int) -> list[int]:
    """At most `limit` row indices that keep small classes whole: taken round by round over the labels."""
    if len(answers) <= limit:
        return list(range(len(answers)))
    queues: dict[str, list[int]] = {}
    for row, answer in enumerate(answers):
        queues.setdefault(answer, []).append(row)
    chooser = random.Random(seed)
    for label in sorted(queues):
        chooser.shuffle(queues[label])
    taken: list[int] = []
    while len(taken) < limit:
        for label in sorted(queues):
            if queues[label] and len(taken) < limit:
                taken.append(queues[label].pop())
    return sorted(taken)


def _validator(rows: Rows, data: TuneData, options: TuneOptions, pad: int) -> Callable[[Any], dict[str, float]] | None:
    """A function from the model to its validation figures; None where there is no validation part."""
    if not data.val_prompts or not options.looks:
        return None
    val_rows = even_share(data.val_answers, options.val_limit, options.seed)
    prompts = rows.encoder.prompts([data.val_prompts[k] for k in val_rows])
    samples = [rows.answer(data.val_answers[k], ids) for k, ids in zip(val_rows, prompts, strict=True)]
    samples = [Sample(s.prompt, s.answer, s.choices, 1.0) for s in samples]
    # Wider batches than in training: nothing is kept for a backward pass.
    settings: dict[str, int] = {"pad": pad, "batch_tokens": max(2048, 2 * options.batch_tokens)}

    def evaluate(model: Any) -> dict[str, float]:
        loss, begun = loss_and_first(model, samples, rows.trie, **settings, full=0.0 if rows.trie else 1.0)
        if rows.trie is None:
            return {"val_loss": loss, "score": -loss}
        truth = [rows.places[data.val_answers[k]] for k in val_rows]
        named = predict(model, prompts, rows.trie, **settings, begun=begun)
        score = macro_f1_of_indices(truth, named, len(rows.trie.labels))
        hits = sum(a == b for a, b in zip(truth, named, strict=True)) / len(truth)
        # The loss breaks ties between eval steps of equal F1, which small validation sets have many of.
        return {"val_loss": loss, "val_macro_f1": score, "val_accuracy": hits, "score": score - 0.1 * min(loss, 5.0)}

    return evaluate


def reporters(names: Sequence[str]) -> list[str]:
    """`report_to` as transformers takes it; refused before the run where it does not know a name or its package is missing."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    if unknown := [name for name in names if name not in INTEGRATION_TO_CALLBACK]:
        available = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise UsageError("usage.report_to", f"'{unknown[0]}' is no reporter", input="report_to", hint=f"one of: {available}")
    for name in names:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ResourceError(
                "resource.extra", f"'{name}' cannot report: {error}", input="report_to", hint=f"pip install {name}"
            ) from error
    return list(names)


def _trainer(job: Job, tuned: Any, steps: StepData, clock: Clock, evaluate: Any, *, pace: Pace, half: bool) -> AnswerTrainer:
    import torch
    from transformers import TrainingArguments

    options = job.options
    cuda = next(tuned.parameters()).device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(job.out / CHECKPOINTS),
        per_device_train_batch_size=1,  # an item is a whole batch
        max_steps=clock.total_steps,
        learning_rate=options.learning_rate,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        data_seed=options.seed,
        logging_steps=options.logging_steps,
        eval_strategy="no",
        save_strategy="no",
        report_to=reporters(options.report_to),
        use_cpu=not cuda,
        bf16=half,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        # Named only when wanted: transformers warns about the option's coming rename whenever it is given.
        **({"gradient_checkpointing": True} if options.gradient_checkpointing else {}),
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(
        lora.trainable(tuned).values(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine(clock, options.warmup))
    return AnswerTrainer(
        model=tuned,
        args=arguments,
        train_dataset=steps,
        optimizers=(optimizer, scheduler),
        clock=clock,
        history=History(),
        validate=evaluate,
        full=options.full_weight,
        smoothing=options.label_smoothing,
        pace=pace,
        sharded=options.shard,
    )


def _steps(rows: Rows, options: TuneOptions, pad: int) -> StepData:
    """The run's batches; of several processes, this one's part of each."""
    answers = rows.data.answers
    lengths = [len(rows.answer(answer, ids)) for answer, ids in zip(answers, rows.fixed, strict=True)]
    return StepData(
        lengths,
        rows,
        pad=pad,
        batch_tokens=options.batch_tokens,
        epochs=options.epochs if options.max_steps is None else 1_000_000,
        seed=options.seed,
        part=(processes.rank(), processes.world()),
        weigh=lambda row: rows.weights.get(answers[row], 1.0),
    )


def _attach(job: Job) -> Any:
    """The base with a fresh or a given adapter on it, its parameters sharded where that is asked for."""
    options = job.options
    tuned = lora.attach_for(job.base.model, options)
    try:
        if job.start is not None:
            lora.start_from(tuned, job.start)
        if options.shard and processes.world() > 1:
            processes.shard(tuned)
    except BaseException:
        lora.detach(tuned)
        raise
    return tuned


def _train(job: Job, tuned: Any, rows: Rows, steps: StepData, clock: Clock, *, pace: Pace, half: bool) -> tuple[AnswerTrainer, int]:
    """Train or resume, with the best weights left on the model: (trainer, steps done)."""
    out, options = job.out, job.options
    saved = checkpoints(out / CHECKPOINTS)
    resumed = _step_of(saved)
    evaluate = _validator(rows, job.data, options, steps.pad)
    trainer = _trainer(job, tuned, steps, clock, evaluate, pace=pace, half=half)
    metrics = MetricsFile(None if processes.rank() else out / METRICS, resumed or 0)
    quiet = options if evaluate else options.model_copy(update={"looks": 0})
    sink = Silent() if processes.rank() else job.progress
    watch = Watch(clock, trainer.history, metrics, sink, stage=f"tune {job.stage}", options=quiet)
    ordered_callbacks(trainer, [watch])
    with warnings.catch_warnings(), fused(tuned, lora.NAME):
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*")
        result = trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
    processes.settle(tuned)
    if trainer.best:
        lora.restore(tuned, trainer.best)
    return trainer, int(result.global_step)


def _step_of(saved: Sequence[Path]) -> int | None:
    return int(saved[-1].name.split("-")[1]) if saved else None


def run(job: Job) -> TuneReport:
    """Attach, train or resume, keep the best weights, write the adapter; the base is left as it was.

    Methods "full" and "qlora" and a sharded run change the base's own weights: open it anew afterwards.
    """
    import torch

    base, data, options = job.base, job.data, job.options
    half = base.model.dtype == torch.bfloat16
    rows = Rows(data, Encoder(base.tokenizer), options)
    steps = _steps(rows, options, int(base.tokenizer.pad_token_id))
    source = time.process_time if options.clock == "processor" else time.monotonic
    clock = Clock(min(len(steps), options.max_steps or len(steps)), options.max_seconds, source=source)
    if options.max_seconds and processes.world() > 1:
        clock.agree = lambda seconds: processes.agreed([seconds])[0]
    resumed = _step_of(checkpoints(job.out / CHECKPOINTS))
    tuned = _attach(job)
    try:
        if _reads_out(job):
            setattr(tuned, HEAD, _head(job, tuned, rows))
        with paced(tuned) as pace:
            trainer, done = _train(job, tuned, rows, steps, clock, pace=pace, half=half)
        if hasattr(tuned, HEAD):
            delattr(tuned, HEAD)
        _save(tuned, base, job.out, options)
        trained = clock.seconds()
        read = _read_out(job, tuned, rows, source)
        count = sum(value.numel() for value in lora.trainable(tuned).values())
    finally:
        lora.detach(tuned).eval()
    seconds, history = clock.seconds(), trainer.history
    return TuneReport(
        stage=job.stage,
        steps=done,
        tokens=history.tokens,
        tokens_per_second=round(history.tokens / max(trained, 1e-9), 1),
        seconds=round(seconds, 3),
        peak_bytes=peak_bytes(),
        resumed_from=resumed,
        trainable=count,
        best_step=history.best_step or done,
        precision="bfloat16" if half else "float32",
        processes=processes.world(),
        threads=pace.threads,
        validation={key: value for key, value in trainer.figures.items() if key != "score" and math.isfinite(value)},
        readout=read,
        reused=False,
    )


def _reads_out(job: Job) -> bool:
    return job.stage == "task" and reads_out(job.data, job.options)


def reads_out(data: TuneData, options: TuneOptions) -> bool:
    """Whether a readout is trained and fitted: for a task's labels, not for routing, by methods that leave the base as it is."""
    return bool(options.readout and data.labels) and NONE not in data.labels and options.method not in ("full", "prefix")


def readout_rows(rows: int, tokens: int, options: TuneOptions) -> int:
    """Rows at most that a readout is fitted on, of training rows with so many tokens in all."""
    return min(options.readout, max(2, READ_TOKENS * rows // max(tokens, 1)))


def _head(job: Job, tuned: Any, rows: Rows) -> readout.Head:
    layers = readout.layers_of(tuned)
    head_rows = even_share(job.data.answers, HEAD_ROWS, job.options.seed)
    features = readout.features_of(tuned, [rows.fixed[k] for k in head_rows], layers, rows.first)
    processes.settle(tuned.train())
    head = readout.Head(layers, features, len(job.data.labels)).to(next(tuned.parameters()).device)
    if job.options.shard and processes.world() > 1:
        for value in head.parameters():
            value.register_hook(processes.averaged)  # type: ignore[no-untyped-call]
    return head


def _read_out(job: Job, tuned: Any, rows: Rows, clock: Callable[[], float] = time.monotonic) -> ReadoutFit | None:
    """Fit and write the readout of a task's adapter, on training rows as they are and, where the data is augmented, twice as many changed
    copies (one copy to two rows as they are lost .03 macro-F1 more under shifts on validation of malware, and gained nothing without);
    what it was fitted on and took. None where there is nothing to tell apart, or none is asked for."""
    import torch

    data = rows.data
    if not _reads_out(job):
        return None
    job.progress.update("readout", 0, None)
    start = clock()
    limit = readout_rows(len(rows.fixed), sum(map(len, rows.fixed)), job.options)
    fit_rows = even_share(data.answers, max(2, limit // 3 if data.augment is not None else limit), job.options.seed)
    layers, first = readout.layers_of(tuned), rows.first
    prompts: list[Sequence[int]] = [rows.fixed[k] for k in fit_rows]
    again: list[tuple[int, int]] = []
    if data.augment is not None:
        left = limit - len(fit_rows)
        again = _copies(even_share(data.answers, left, job.options.seed), left, job.options.seed)
    prompts += [rows(k, -1 - number).prompt for k, number in again]
    features = readout.features_of(tuned, prompts, layers, first)
    processes.settle(tuned)
    y = torch.tensor([rows.places[data.answers[k]] for k in (*fit_rows, *(k for k, _ in again))])
    weights = torch.tensor([rows.weights.get(label, 1.0) for label in data.labels])
    fitted = readout.Readout(data.labels, layers, first, readout.WEIGHT, *readout.logistic(features, y, weights))
    if not processes.rank():
        fitted.save(job.out)
    return ReadoutFit(rows=len(prompts), features=features.shape[1], weight=fitted.weight, seconds=round(clock() - start, 3))


def _copies(rows: Sequence[int], most: int, seed: int) -> list[tuple[int, int]]:
    """(row, number of the copy) of at most `most` changed copies, each row as often as another within one, COPIES times at most."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    return [(order[k % len(order)], k // len(order)) for k in range(max(0, min(most, COPIES * len(order))))]


def _save(tuned: Any, base: Base, out: Path, options: TuneOptions) -> None:
    """An adapter's folder, or the whole model's with its tokenizer; each file appears whole."""
    if options.method != "full":
        name = str(base.manifest.get("name") or base.manifest.get("source", {}).get("name") or base.path.name)
        lora.save_adapter(tuned, out, base_name=name)
        return
    # Tied weights are named once: whole copies no longer share storage, and would be written twice.
    state = {name: processes.whole(value) for name, value in tuned.named_parameters()} if options.shard else None
    with processes.in_turn() as first:
        if not first:
            return
        with atomic_dir(out / ".whole") as folder:
            tuned.save_pretrained(folder, **({"state_dict": state} if state else {}))
            base.tokenizer.save_pretrained(folder)
        for path in sorted((out / ".whole").iterdir()):
            path.replace(out / path.name)
        (out / ".whole").rmdir()
