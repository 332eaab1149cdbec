-- Qwen2ForCausalLM (Qwen2 and Qwen2.5): Llama with biases in q, k and v, and a window in some layers.
return require "attnlab.model.hub.decoder" { architectures = { "Qwen2ForCausalLM" }, bias = "qkv", window = "layers" }
