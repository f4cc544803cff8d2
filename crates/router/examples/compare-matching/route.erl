%% What rabbitmqctl evaluates on the node, once CASES and ANSWERS are the names of files: declares an exchange for
%% each set, binds a queue for each of its subscriptions, and routes each of its messages as a publish would.
%%
%% CASES holds one term a line: {Name, Type, [{RoutingKey, Arguments}], [{RoutingKey, Headers}]}.
%% ANSWERS gets, for each message of each set in turn, a line with the numbers of the queues that it went to.
{ok, Sets} = file:consult(CASES),
Who = <<"compare-matching">>,
Route = fun({Name, Type, Bindings, Messages}) ->
    Exchange = rabbit_misc:r(<<"/">>, exchange, Name),
    rabbit_exchange:declare(Exchange, Type, false, false, false, [], Who),
    Numbers = maps:from_list([begin
        Queue = rabbit_misc:r(<<"/">>, queue, <<Name/binary, ".", (integer_to_binary(N))/binary>>),
        {new, _} = rabbit_amqqueue:declare(Queue, false, false, [], none, Who),
        ok = rabbit_binding:add({binding, Exchange, Key, Queue, Arguments}, Who),
        {Queue, N}
    end || {N, {Key, Arguments}} <- lists:zip(lists:seq(0, length(Bindings) - 1), Bindings)]),
    {ok, Declared} = rabbit_exchange:lookup(Exchange),
    [begin
        Message = rabbit_basic:message(Exchange, Key, [{headers, Headers}], <<>>),
        Delivery = rabbit_basic:delivery(false, false, Message, undefined),
        Reached = [maps:get(Queue, Numbers) || Queue <- rabbit_exchange:route(Declared, Delivery)],
        [lists:join(" ", [integer_to_list(N) || N <- Reached]), "\n"]
    end || {Key, Headers} <- Messages]
end,
ok = file:write_file(ANSWERS, [Route(Set) || Set <- Sets]).
