"""Dead letters: found, shown, sent again through the normal path, or discarded."""
