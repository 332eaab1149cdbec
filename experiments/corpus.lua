-- A text of your own, as tokens. These make the folder corpus that this file names (data/README.md), then run it:
--   ./lab tokenizer-train TEXT out=corpus.model vocab_size=4096 document_end="<|endoftext|>"
--   ./lab tokenize TEXT tokenizer=corpus.model out=corpus document_end="<|endoftext|>" val=0.05
--   ./lab run experiments/corpus.lua
local lab = require "attnlab"

return lab.experiment {
  name = "corpus",
  title = "Softmax and exp + L2 on a corpus of one's own",
  question = "Does a norm in place of the denominator do as well on documents of one's own?",
  base = {
    data = { path = "corpus", rows = "packed" },
    layers = 4, width = 256, heads = 4, mlp = 512, context = 256, batch_size = 16,
    steps = 400, warmup_steps = 40, lr = 2e-3, eval_interval = 50,
  },
  arms = {
    { name = "softmax" },
    { name = "exp + L2", ["attention.denominator"] = "none", ["attention.output_norm"] = "l2" },
  },
  seeds = { 1, 2, 3 },
  margin = 0.02,
  expect = { { arm = "exp + L2", versus = "softmax", equal_within = 0.02 } },
  quick = { seeds = { 1 }, steps = 60, warmup_steps = 10, eval_interval = 20, eval_windows = 64 },
}
