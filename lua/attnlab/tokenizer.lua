-- Tokenizers of every kind: lab.tokenizer(path, {pattern=, special=}), a file, a folder that has one, or "bytes".
-- What kind it is, its content says: tokenizer.json, SentencePiece's .model, GPT-2's merges (vocab.json beside them),
-- a .tiktoken file (pattern= one of gpt2, cl100k, llama3, o200k or a pattern; special={name=id}), tekken.json, BERT's
-- vocab.txt, llama2.c's table. A component of it that is not known is refused by its name.
-- v:encode(text, {special=, template=}), v:decode(ids), v:piece(id), v:id(piece), v:special(), v:hash(), v:save(folder).
local vocabulary = require "attnlab.vocabulary"

local M = {}

return setmetatable(M, { __call = function(_, path, opts) return vocabulary.open(path, opts) end })
