"""SAM 2 as it is trained, from settings and files of weights.

    build.py          the architecture, with random weights
    sam2_train.py     Meta's ``SAM2Train``, but an object is prompted only where it is
    checkpointing.py  which activations are computed again in the backward pass
    loading.py        weights of any format into a model; which model they are of
    weights.py        ``.pt`` and ``.ckpt`` files, read under SAM 2's own names
    hugging_face.py   files of Hugging Face's models, read and written
    lora.py           adapters beside linear layers, put in after the weights, merged on export
    adapters.py       files of adapters alone, and the hash of the weights they belong to
    known_weights.py  weights as a user names them: which file, model, run and base they are of
    freezing.py       which parts are trained

The order is `build_model`, `load_weights`, `lora.inject`, `freeze`. The other way, to files for
Meta's predictor and for Hugging Face, is ``core/export.py``.
"""
