"""Self-configuring medical image segmentation, driven by configuration.

Docstrings cite the recipe that segflow follows: "recipe 4.2" is section 4.2 of ``docs/recipe.md``.
"""
