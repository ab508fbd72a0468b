"""Search spaces: knobs whose values are numbers in order, or names, and the configs that they make."""

from loracle.records.space.beliefs import Statement as Statement
from loracle.records.space.beliefs import UserBeliefs as UserBeliefs
from loracle.records.space.knob import MOST_NAMES as MOST_NAMES
from loracle.records.space.knob import NUMERIC as NUMERIC
from loracle.records.space.knob import Knob as Knob
from loracle.records.space.knob import Number as Number
from loracle.records.space.knob import Scale as Scale
from loracle.records.space.knob import Value as Value
from loracle.records.space.knob import number as number
from loracle.records.space.knob import reads_as_number as reads_as_number
from loracle.records.space.knob import same_value as same_value
from loracle.records.space.search_space import Config as Config
from loracle.records.space.search_space import Indices as Indices
from loracle.records.space.search_space import SearchSpace as SearchSpace
from loracle.records.space.search_space import with_alpha as with_alpha
from loracle.records.space.usual import default_space as default_space
from loracle.records.space.usual import paper_space as paper_space
