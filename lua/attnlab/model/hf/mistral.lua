-- MistralForCausalLM: Llama with a window in every layer, or in none.
return require "attnlab.model.hub.decoder" { architectures = { "MistralForCausalLM" }, window = true }
