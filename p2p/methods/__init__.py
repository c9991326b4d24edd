"""How an image is edited, one file per method; `p2p.methods.prompt_to_prompt` is the paper's."""
