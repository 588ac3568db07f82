"""``python -m jobs FOLDER`` runs one task."""

import sys

from jobs.entry import main

sys.exit(main())
