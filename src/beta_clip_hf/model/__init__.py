"""
The core: flat files that import each other as `.name`, because `save_pretrained` copies them beside the weights.

Names of tensors end in the letters of their axes: `text_embeds_TD` is (T, D). One legend holds for the whole package:

| letter | axis |
|---|---|
| B | images of a batch |
| T | texts of a batch, of all kinds, flat |
| P | patches of an image |
| D | embedding width |
| L | tokens of a text |
| H | attention heads |
| d | width of an attention head |
| R | regions (boxes) |
| N | hard texts: true texts of regions and their negatives |
| n | negatives of texts: false variants of the texts of a batch |
| Q | queries |
| G | gallery items |
| K | candidates of a query |
| A | texts that β-CAL aligns: captions, sentences, phrases |
| J | short captions |
| U | different texts or images: each of several equal ones once |
| S | slots of an image in a padded block: rows of the fullest image |
| W | width of a tower's hidden states |
| F | packed rows, which hold several texts each |
| C | columns of a packed row |
| Z | tokens of all different texts, one text after the other |
| V | stretches of packed places, each a text or the empty rest of a row |
| Y, X | rows and columns of the patch grid; X also for either of them, where both axes are treated alike |
| O | samples of a box along one axis |
| M | rows of any kind, pairs of an image and a text among them; of several processes, those of this process |
| E | rows of any kind of all processes |
| m, e | those of M and E that one tile holds |
| I | items that a metric is the mean of |

A digit is the size of an axis: `boxes_R4` is (R, 4). Pixels are (B, 3, height, width). A file that needs another
letter says so at its top.
"""
