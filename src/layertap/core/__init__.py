"""Words of the domain: addresses, plans, values, tables. Imports no Keras."""
