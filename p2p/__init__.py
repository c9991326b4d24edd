"""Prompt-to-Prompt editing of diffusers pipelines (Hertz et al., ICLR 2023): `edit(model, source_prompt,
edits, seed)`.

What the package exports stands in `__init__.pyi`; each name is imported when it is first used, as diffusers'
pipelines take seconds to import.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
