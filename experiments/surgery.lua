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
- A norm behind softmax costs about a tenth of a nat in all layers once it is calibrated, and beneath it the
  denominator is worth nothing: exp + L2 and softmax + L2 are one function, here in a model that was trained with
  neither. L2 and rms are one after calibration.
- Raw, a swap measures scale above all: softmax's output has another size than a unit vector, or than a sum of exps.
- A denominator that no query enters (none, length) stays dear in every layer: it is the row's own sum that counts.
- The series has to reach the largest logit: it closes the gap in a layer with small logits, and does not in one whose
  logits are larger than the order. In all layers at once odd orders are worse than the even ones beside them:
  their weights change sign.
- On text that a model writes itself, the loss difference is an estimate of KL: the two columns agree.]],

  next = "./lab generate experiments/models/stories260K.bin 'prompt=Once upon a time'      (the text that was operated on)",
}
