"""What the launcher of a Flex template starts, with a launch's parameters: see pipelines/flex.py."""

import sys

from pipelines.flex import main

sys.exit(main())
