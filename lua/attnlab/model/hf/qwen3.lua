-- Qwen3ForCausalLM: Llama with a norm of the heads of q and k, and a window in some layers.
return require "attnlab.model.hub.decoder" {
  architectures = { "Qwen3ForCausalLM" }, bias = true, qk_norm = true, window = "layers" }
