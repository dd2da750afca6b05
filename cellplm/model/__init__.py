"""The model: cells are tokens, a tissue is a sentence."""
