"""Bundles: engine, models and packages in one folder, for fleets and laptops without internet."""
