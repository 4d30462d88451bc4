//! What surrounds the tensors: tokenizer and chat template.
