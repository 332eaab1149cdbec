local lab = require "attnlab"

return lab.study {
  name = "surgery",
  kind = "surgery",
  title = "What a trained softmax model loses when one part of its attention is replaced",
  question = "What does a trained softmax model lose when one part of its attention is replaced?\n"
    .. "exp by its series, the denominator by another, a norm behind it: layer by layer, raw and calibrated\n"
    .. "(one constant a head that brings the rms of its output back).",
  source = "Mongaras and Larson, On the Expressiveness of Softmax Attention, arXiv 2507.23632, as an operation on trained models",

  cases = {
    { model = { experiment = "denominator", arm = "softmax", seed = 1 }, data = "shakespeare",
      orders = { 1, 2, 3, 4, 6, 8, 12, 16 },
      denominators = { "none", "length", "l2" },
      norms = { "l2", "rms", "layer" },
      others = { { name = "root of the sum", denominator = { power = 0.5 } },
                 { name = "exp + L2", denominator = "none", output_norm = "l2" } },
      calibrate = { false, true }, windows = 24, prompt = "ROMEO:\n", tokens = 120 },
    { model = { file = "stories260K" }, data = "own", context = 256,
      orders = { 1, 2, 3, 4, 6, 8, 12, 16 },
      denominators = { "none", "length", "l2" },
      norms = { "l2", "rms", "layer" },
      others = { { name = "root of the sum", denominator = { power = 0.5 } },
                 { name = "exp + L2", denominator = "none", output_norm = "l2" } },
      calibrate = { false, true }, windows = 24, prompt = "Once upon a time", tokens = 100 },
  },
  seeds = { 1 }, -- of the text that a model writes for itself

  expect = {
    { kl_falls = 2 },
    { swap = "norm l2", calibrated_better = true },
    { swap = "denominator length", calibrated_better = true },
  },

  quick = {
    expect = { { swap = "norm l2", calibrated_better = true } },
    cases = {
      { model = { experiment = "denominator", arm = "softmax", seed = 1, quick = true }, data = "shakespeare",
        orders = { 2, 4 }, denominators = { "length" }, norms = { "l2" },
        calibrate = { false, true }, windows = 8, prompt = "ROMEO:\n", tokens = 40 },
      { model = { file = "stories260K" }, data = "own", context = 128, layers = "all",
        orders = { 2, 4 }, denominators = { "length" }, norms = { "l2" },
        calibrate = { false, true }, windows = 8, prompt = "Once upon a time", tokens = 40 },
    },
  },

  story = [[
What to look for:
- Raw against calibrated: softmax's output has another size than a unit vector, or than a sum of exps. What a constant
  factor a head brings back was scale.
- norm l2 and exp + L2: a positive factor cancels in the norm, so that both are one function, here in a model that was
  trained with neither. L2 and rms differ by a constant.
- Denominators that no query enters (none, length) against the root of the sum: does the row's own sum count?
- The series layer by layer: its terms fall only where the order is above the largest logit. At odd orders weights can be
  negative: compare them with the even ones beside them.
- On text that a model writes itself the loss difference is an estimate of KL: the two columns should agree.]],

  next = "./lab generate experiments/models/stories260K.bin 'prompt=Once upon a time'      (the text that was operated on)",
}
