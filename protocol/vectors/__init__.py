"""From named arrays to the bytes of an update and back.

`layout` makes one flat vector of a model's arrays, `quantise` makes its numbers shorter, `sparse`
leaves most of them out, and `packing` joins the three into the codecs that a lease can ask for.
"""
