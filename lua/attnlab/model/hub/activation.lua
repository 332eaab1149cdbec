-- What the MLP's function is called: words of config.json as our option, and back.
local M = {}

M.WORDS = { gelu = "gelu", gelu_new = "gelu_new", gelu_fast = "gelu_new", gelu_pytorch_tanh = "gelu_new", relu = "relu",
            silu = "silu", swish = "silu" }

-- The word for the option of a configuration; auto: what the architecture has.
function M.of(config, auto) return config.activation == "auto" and auto or config.activation end

return M
