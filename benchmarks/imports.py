"""What it takes to import modules: ``python -m benchmarks.imports NAME…`` in a fresh interpreter."""

import sys
import time

began = time.perf_counter()
for name in sys.argv[1:]:
    __import__(name)
seconds = time.perf_counter() - began
with open("/proc/self/status") as status:  # pathlib would be one more module
    resident = int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024
print(f'{{"import_ms": {seconds * 1e3}, "resident_bytes": {resident}, "modules": {len(sys.modules)}}}')
