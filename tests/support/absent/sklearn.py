"""Makes Keras go without a package that it imports wherever it is, and never uses."""

raise ImportError("absent in workers, which start in three quarters of the time then")
