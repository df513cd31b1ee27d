"""Suspect files of every common format -> tensors by name, with nothing in them ever executed.

:mod:`.reading` is the way in. It takes safetensors as :mod:`smdl_flower.weights` does; every other
format is converted by a child process with limits (:mod:`.child`), which hands over a plain
safetensors file. All parsers are our own: neither ``torch.load`` nor ``torch.jit.load`` nor
``torch.export.load`` is called, since the latter two have no safe mode and the first believes what
a file claims about its sizes. They get bytes and give :class:`.tensors.StoredTensor`; none of them
knows keys, registry or base models.
"""
