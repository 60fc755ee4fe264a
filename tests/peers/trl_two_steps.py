"""Two steps of TRL's GRPOTrainer on a tiny Llama that is made from its config, paid by Flattery's gold and proxy."""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from tokenwalk.envs.tasks import find_task
from tokenwalk.envs.trl import reward_funcs

out, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)
task = find_task("Flattery")
names = [*task.vocabulary.tokens, "<pad>", "<bos>"]
words = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
words.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>"
)
size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
special = {"bos_token_id": 7, "eos_token_id": task.vocabulary.eos, "pad_token_id": task.vocabulary.pad}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(names), max_position_embeddings=16, **size, **special))
model.generation_config.suppress_tokens = [6, 7]
found = reward_funcs(task, [("gold", 1.0), ("proxy", 0.5)])
arguments = GRPOConfig(
    output_dir=out,
    max_steps=steps,
    per_device_train_batch_size=8,
    num_generations=8,
    max_completion_length=task.horizon,
    reward_weights=found.weights,
    learning_rate=1e-3,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    bf16=False,
    generation_kwargs={"suppress_tokens": [6, 7]},
)
trainer = GRPOTrainer(
    model,
    found.functions,
    args=arguments,
    train_dataset=Dataset.from_list([{"prompt": "<bos>"}] * 64),
    processing_class=tokenizer,
)
trainer.train()
(Path(out) / "log.json").write_text(json.dumps(trainer.state.log_history))
