"""Data: one form of a dataset, a drawn world that knows the truth, and real datasets.

- The one form: `triplets`; `photos` are triplets whose pictures are files; `datasets` finds each by its
  name, and `census` counts what is there of it.
- SynthFashion: `garments` (what is drawn), `drawing`, `language` (what annotators say), `synthfashion`.
- Real layouts: `fashioniq`, `shoes`, `fashion200k`, `css3d`, `cirr`, `own`. Each has `load`, `write`, its
  `SPLITS`, and `PARTS`, which a census counts. They share `records` (annotation files) and `finder` (photos).
- `images` decodes and stores pictures; `vocabulary` numbers words for the CNN stream.
"""
