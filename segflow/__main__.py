"""``python -m segflow``."""

from segflow.apps.main import main

main()
