"""Prune a BERT in the Trainer of transformers.

    pip install -e ".[transformers]"
    cd examples && python transformers_trainer.py    # takes a few seconds

The task needs no download: which of two words is more frequent in a sentence?
"""

import tempfile
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from lit_prune.functional import apply_masks, compute_masks, hold_masks, sparsity_report, weight_layers


class PruneAtStep(TrainerCallback):
    def __init__(self, amount, step):
        self.amount, self.step = amount, step

    def on_train_begin(self, args, state, control, model, optimizer, **kwargs):
        self.held = hold_masks(model, optimizer)
        if state.global_step > self.step:
            apply_masks(model, {ref.name: ref.tensor != 0 for ref in weight_layers(model)})

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step == self.step:
            apply_masks(model, compute_masks(weight_layers(model), self.amount))

    def on_train_end(self, args, state, control, **kwargs):
        self.held.remove()


def sentences(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sentences of 9 tokens, each 2 or 3; the label is 1 if 3 is the more frequent token, else 0."""
    words = torch.randint(2, 4, (count, 9), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": sentence, "labels": int((sentence == 3).sum() > 4)} for sentence in words]


def main() -> None:
    """Train, and print accuracy and sparsity."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=4, num_labels=2, **sizes))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=200, per_device_train_batch_size=32, learning_rate=2e-3, use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sentences(512, seed=0),
            eval_dataset=sentences(128, seed=1),
            compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(1) == found.label_ids).mean()},
            callbacks=[PruneAtStep(0.5, step=100)],
        )
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    sparsity = sparsity_report(weight_layers(model)).sparsity
    print(f"test accuracy {accuracy:.1%}, {sparsity:.1%} of the weights are zero")


if __name__ == "__main__":
    main()
