"""The confusion agent: joins pairs with feedback, and says how right each model is."""
