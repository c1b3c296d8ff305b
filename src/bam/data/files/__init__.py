"""Read image files: options, decoding, worker processes and the batches made from them."""
