"""`python -m rlkd` is `rlkd`."""

import sys

from rlkd.cli import main

sys.exit(main())
