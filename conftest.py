"""What all tests share."""

import os

# As many tests run side by side as there are cores. More threads than cores wait for each other, most of the time;
# processes that tests start inherit this. It has to be said before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
